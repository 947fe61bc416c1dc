"""Lines that could not be used: counted, the first of them quoted, and too many of them an error."""

from dataclasses import dataclass, field

from recbole_think.errors import InputError

QUOTED = 5  # lines
WORDS = 100  # letters of each


@dataclass
class Rejects:
    """Of one conversion."""

    limit: int = 100  # lines; more are an error
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, path: str, line: int | str, text: bytes | str, why: str) -> None:
        """Note a line, by its number, or a record of a file that is none of lines, by its name.

        Raises:
            InputError: there are more than may be.
        """
        said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        where = f"line {line}" if isinstance(line, int) else line
        example = f"{path}, {where}: {why}: {said[:WORDS]!r}"
        self.count += 1
        if len(self.examples) < QUOTED:
            self.examples.append(example)
        if self.count > self.limit:
            raise InputError(
                f"{self.count} lines are malformed, the last being {example}; is it the file it should be? "
                f"--malformed=<number> skips more than {self.limit}"
            )

    def decoded(self, path: str, line: int, text: bytes) -> str | None:
        """A line as text; None, and it is noted, where it is not UTF-8."""
        try:
            if b"\0" not in text:
                return text.decode("utf-8")
            why = "it holds zero bytes, as UTF-16 does"
        except UnicodeDecodeError as error:
            why = f"{error.reason} at byte {error.start}"
        self.add(path, line, text, f"not UTF-8 ({why})")
        return None

    def summary(self) -> str:
        """The end of an error's message: how many there are, and the first of them; nothing where there is none."""
        said = f"; lines or records that could not be used: {self.count:,}, the first being "
        return said + self.examples[0] if self.count else ""
