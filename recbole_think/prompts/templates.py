"""The texts themselves, one constant per task."""

RECOMMENDATION_SYSTEM = "You list items in the order a person chose them."
RECOMMENDATION_USER = "Go on with my list."

PERSONA_PROFILE = "A person: {profile}."
PERSONA_INTERESTS = "A person who likes {interests}."
PERSONA_NOBODY = "A person."
PERSONA_CHOSE = " Chose:"

CAPTION_SYSTEM = "You describe the item a code stands for."
CAPTION_USER = "What is {item}?"

NAMING_SYSTEM = "You give the code of the item a text speaks of."
NAMING_USER = "Which item is this: {text}?"

NEXT_TITLE_SYSTEM = "You say which item a person chooses next."
NEXT_TITLE_USER = "What comes after {history}?"

RATIONALE_NOTHING = "something else"
RATIONALE_NEXT = " Next: {kinds}."

EXPLAIN_SYSTEM = "You explain in one short sentence why an item comes next in a list."
EXPLAIN_USER = "After {history} came {target}. Why?"
TEACHER_SYSTEM = (
    "You explain choices. Answer with one or two short sentences about what the listed items have in common that makes "
    "the chosen one fit. Refer to listed items by their number in square brackets, such as [2]. Never name, quote or "
    "number the chosen item itself."
)
TEACHER_USER = "Someone chose, lately:\n{lines}\n\nThen they chose: {target}\n\nWhy does it fit?"

ONLY = ("Only {kind}.", "only {kind}", "Nothing but {kind}, please.", "I am in the mood for {kind}.", "{kind}")
BRIEFLY = ("Explain briefly.", "explain briefly", "Briefly.", "Keep it short.")
