"""The texts themselves, one constant per task."""

RECOMMENDATION_SYSTEM = "You list items in the order a person chose them."
RECOMMENDATION_USER = "Go on with my list."

PERSONA_PROFILE = "A person: {profile}."
PERSONA_INTERESTS = "A person who likes {interests}."
PERSONA_NOBODY = "A person."
PERSONA_CHOSE = " Chose:"

CAPTION_SYSTEM = "You describe the item a code stands for."
CAPTION_USER = "What is {item}?"
