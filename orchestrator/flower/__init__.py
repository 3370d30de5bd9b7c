"""Flower with the inbox, behind Django's login.

``app`` is Flower with our pages, ``guard`` the door that every request passes,
``access`` the side of it that asks Django, ``contract`` what we rely on in the
pinned Flower, ``server`` the process. Where the contract no longer holds, stock
Flower runs behind the same door: never an open one.
"""
