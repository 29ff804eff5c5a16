"""Settings of the property tests."""

from hypothesis import settings

# A shared machine makes single examples slow; a deadline would fail tests by chance.
settings.register_profile("virft", deadline=None)
settings.load_profile("virft")
