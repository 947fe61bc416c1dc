"""The texts themselves, one constant per task. ``{history}`` stands for itemic tokens."""

RECOMMENDATION_SYSTEM = "Name the next item."
RECOMMENDATION_USER = "{history}"
