"""What all tests share: hypothesis without deadlines, on a machine whose speed is nobody's business."""

from hypothesis import settings

settings.register_profile("xenblk", deadline=None, print_blob=True)
settings.load_profile("xenblk")
