"""What all tests share: hypothesis without deadlines, on a machine whose speed is nobody's business."""

import signal

from hypothesis import settings

# A shell that starts the tests in the background has interrupts ignored, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("xenblk", deadline=None, print_blob=True)
settings.load_profile("xenblk")
