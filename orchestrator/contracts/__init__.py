"""What every part agrees on: values, ports and errors.

Standard library only; every layer may import it; it imports nothing of ours
but its own siblings, so it cannot fail at import for want of a setting.
"""
