"""The texts themselves, one constant per task."""

RECOMMENDATION_SYSTEM = "You list items in the order a person chose them."
RECOMMENDATION_USER = "Go on with my list."
