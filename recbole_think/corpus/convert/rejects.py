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

    def add(self, path: str, line: int, text: bytes | str, why: str) -> None:
        """Note a line.

        Raises:
            InputError: there are more than may be.
        """
        said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        example = f"{path}, line {line}: {why}: {said[:WORDS]!r}"
        self.count += 1
        if len(self.examples) < QUOTED:
            self.examples.append(example)
        if self.count > self.limit:
            raise InputError(
                f"{self.count} lines are malformed, the last being {example}; is it the file it should be? "
                f"--malformed=<number> skips more than {self.limit}"
            )
