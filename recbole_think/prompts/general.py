"""General text, so that a model keeps its language: read from files of the user's, or made of our own questions.

Gives ``GeneralText``; which of them are held out is the caller's matter. Knows nothing of models: the answers to our
questions are the backbone's own (stages/speech.py).
"""

import json
from pathlib import Path

from recbole_think.errors import InputError
from recbole_think.prompts.alignment import GeneralText

FORMS: dict[str, tuple[str, ...]] = {
    "Explain {} to a ten-year-old.": (
        "why the sky is blue", "how a lever works", "what money is for", "how bees make honey", "why it rains",
        "what a computer program is", "how vaccines work", "why we have seasons", "what electricity is",
        "how a boat floats", "why leaves change colour", "what democracy means", "how the heart works",
        "what a fossil is", "why the moon changes shape", "how a bridge stays up", "what recycling does",
        "how sound travels", "why we sleep", "what gravity is",
    ),
    "Give three short tips for {}.": (
        "learning a new language", "sleeping better", "saving money on groceries", "keeping houseplants alive",
        "writing a clear email", "preparing for a job interview", "running a first five kilometres",
        "taking better photographs", "cooking rice", "making friends in a new city", "reading more books",
        "packing a small suitcase", "speaking in front of people", "working from home", "staying calm in traffic",
        "organising a birthday party", "cleaning a kitchen quickly", "looking after a puppy", "hiking safely",
        "remembering names",
    ),
    "What is the difference between {}?": (
        "a lake and a pond", "a novel and a short story", "weather and climate", "jam and jelly",
        "a crocodile and an alligator", "butter and margarine", "a violin and a viola", "tea and herbal tea",
        "a city and a town", "a comet and an asteroid", "speed and velocity", "fiction and non-fiction",
        "a fruit and a vegetable", "a loan and a gift", "a lawyer and a judge", "moths and butterflies",
        "a symphony and a concerto", "baking and roasting", "an opinion and a fact", "a mountain and a hill",
    ),
    "Write two sentences about {}.": (
        "a rainy morning", "an old lighthouse", "the first day of school", "a crowded train", "a quiet library",
        "a market in summer", "a dog waiting at a door", "a long journey home", "a garden at night",
        "a storm at sea", "a small village bakery", "an empty stadium", "a letter that came late",
        "a walk in the snow", "a grandmother's kitchen", "a river in spring", "a broken umbrella",
        "a night under the stars", "a surprise visit", "the last page of a book",
    ),
    "What should I consider before {}?": (
        "buying a bicycle", "adopting a cat", "moving to another country", "renting a flat", "learning the piano",
        "starting a small business", "painting a room", "planting a tree", "changing careers",
        "travelling alone", "buying a used car", "going camping", "choosing a school", "hosting guests",
        "joining a gym", "ordering glasses online", "building a bookshelf", "lending money to a friend",
        "cutting my own hair", "studying abroad",
    ),
    "Name a few good reasons for {}.": (
        "keeping a diary", "eating breakfast", "walking to work", "learning to swim", "visiting museums",
        "volunteering", "growing vegetables", "playing chess", "singing in a choir", "cooking at home",
        "turning off the phone in the evening", "learning first aid", "watching old films", "riding a train",
        "drinking enough water", "writing letters by hand", "listening to the radio", "repairing old clothes",
        "getting up early", "saying thank you",
    ),
    "Rewrite this more politely: {}": (
        "Send me the file now.", "You are late again.", "I don't like this plan.", "Stop talking.",
        "Why did nobody tell me?", "Move your car.", "This soup is cold.", "You made a mistake.",
        "I want my money back.", "Be quiet, I am working.", "Your music is too loud.", "Answer my question.",
        "That is not my problem.", "Close the window.", "You forgot the meeting.", "I need help today.",
        "This is the wrong size.", "Come here.", "Nobody asked you.", "Give me a discount.",
    ),
    "Continue the story: {}": (
        "The door had not been opened for a hundred years.", "When the lights came back, one chair was empty.",
        "Anna found a map in her grandfather's coat.", "The last bus had already gone.",
        "Nobody believed the boy about the whale.", "On Monday the clocks ran backwards.",
        "The cook tasted the soup and smiled.", "It was the coldest day of the year.",
        "The robot asked a question nobody expected.", "There was a knock at the window.",
        "The king had lost his crown again.", "Two strangers shared a taxi.", "The garden had a secret gate.",
        "The letter was addressed to someone else.", "At noon the fog came in.", "The old piano played by itself.",
        "They had one match left.", "The photograph showed a house she knew.", "The river was louder than before.",
        "He counted the steps to the tower.",
    ),
    "How do I {}?": (
        "boil an egg", "change a bicycle tyre", "tie a tie", "remove a coffee stain", "write a thank-you note",
        "make a paper plane", "set a table", "read a map", "fold a shirt", "brew a pot of tea", "sharpen a pencil",
        "plant a seed", "clean a mirror", "introduce myself", "measure a room", "wrap a present",
        "make a simple salad", "check the oil in a car", "calm a crying baby", "start a campfire",
    ),
    "What would you recommend to someone who {}?": (
        "likes quiet evenings", "enjoys detective stories", "wants to learn about space", "loves spicy food",
        "has only ten minutes for lunch", "is bored at home", "likes old music", "wants a gift for a teacher",
        "enjoys comedies", "likes long walks", "has a cold", "wants to draw better", "loves horses",
        "likes board games", "wants to see the sea", "enjoys history", "is learning to cook", "likes puzzles",
        "wants to sleep earlier", "enjoys romantic films",
    ),
    "Summarise in one sentence: {}": (
        "The team worked for months on the bridge. It opened on Friday, and thousands of people walked across it.",
        "Rain fell for six days. The river rose, but the new wall kept the town dry.",
        "Maria sold her car and bought a bicycle. She now gets to work sooner and feels better.",
        "The museum moved its oldest paintings to the basement because the sun was fading their colours.",
        "A small shop began to sell bread made by its neighbours. Soon people came from other towns.",
        "The school planted a hundred trees. Each class looks after ten of them and measures their growth.",
        "Two friends disagreed about a film. They watched it again and both changed their minds.",
        "The train was cancelled, so the orchestra played its concert on the platform.",
        "Scientists counted birds on an island for thirty years. The number of nests has doubled.",
        "The bakery ran out of flour. It made rice cakes instead, and customers asked for more.",
        "A lost dog found its way home after three weeks. It had crossed two rivers.",
        "The city closed one street to cars on Sundays. Children now play there.",
        "An old computer was found in an attic. It still had a game on it, half finished.",
        "The farmer changed her crops after the dry summer. The harvest was the best in years.",
        "The library lends tools as well as books. Drills are the most wanted.",
        "A storm broke the lighthouse window. The keeper repaired it before dark.",
    ),
    "Write a short message to {}.": (
        "a neighbour about a parcel", "a teacher about a sick child", "a friend who passed an exam",
        "a landlord about a broken heater", "a colleague who is leaving", "a restaurant to book a table",
        "an aunt after a birthday", "a customer whose order is late", "a team before a match",
        "a doctor to change an appointment", "a friend you have not seen for years", "a hotel about a lost hat",
        "a band whose concert you liked", "a new member of a club", "a plumber about a leak", "a sister abroad",
    ),
}  # fmt: skip


def questions(count: int = 0) -> list[str]:
    """Return our questions, the kinds taking turns, or the first ``count`` of them."""
    longest = max(map(len, FORMS.values()))
    asked = [
        form.format(fillings[place])
        for place in range(longest)
        for form, fillings in FORMS.items()
        if place < len(fillings)
    ]
    return asked[:count] if count else asked


def read_general(path: Path) -> list[GeneralText]:
    """Read general text: a folder of ``.txt`` files (one text each), or JSON lines.

    A line is ``{"text": ...}``, ``{"prompt": ..., "answer": ...}`` or ``{"messages": [...]}`` (its last question and
    answer).

    Raises:
        InputError: nothing there, no text in it, or a line that is none of these.
    """
    if path.is_dir():
        texts = [GeneralText(_text_of(file)) for file in sorted(path.rglob("*.txt"))]
        texts = [text for text in texts if text.answer.strip()]
        where = f"folder {path} holds no .txt file with text in it"
    elif path.is_file():
        lines = _text_of(path).splitlines()
        texts = [_of_line(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
        where = f"{path} holds no lines"
    else:
        raise InputError(f"alignment.general={str(path)!r} is no folder and no file; name one, or write own")
    if len(texts) < 2:
        raise InputError(f"alignment.general: {where}; at least two texts are needed, one is held out")
    return texts


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as why:
        raise InputError(f"{file} is not UTF-8 text: {why}; convert it first") from why


def _of_line(line: str, path: Path, number: int) -> GeneralText:
    try:
        found = json.loads(line)
        if "messages" in found:
            asked, answered = found["messages"][-2:]
            found = {"prompt": asked["content"], "answer": answered["content"]}
        text = GeneralText(found["answer"], found["prompt"]) if "answer" in found else GeneralText(found["text"])
    except (ValueError, KeyError, TypeError) as why:
        raise InputError(
            f'{path}, line {number}: expected {{"text": ...}}, {{"prompt": ..., "answer": ...}} or '
            f'{{"messages": [...]}}, got {line[:80]!r}'
        ) from why
    if not all(isinstance(part, str) for part in (text.answer, text.question)) or not text.answer.strip():
        raise InputError(f"{path}, line {number}: text and answers must be words, got {line[:80]!r}")
    return text
