"""What a catalogue and a crowd of users would take, on paper: memory, GPU hours, storage, network, refresh.

``python -m recbole_think.plan --items=1e8 --users=1e9`` prints a plan with every assumption; ``docs/scale.md`` holds
its formulas against what was measured. Pure arithmetic: nothing here loads torch, a model or data.
"""
