"""One file, one policy, one promise. Pure: contracts and the standard library only.

No policy knows another; their order is the one visible list in ``conf.POLICIES``.
Each docstring ends with its fail mode.
"""
