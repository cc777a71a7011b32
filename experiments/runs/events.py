"""Files of TensorBoard events, from tensorboardX without what only others need of it.

Where torch is installed, tensorboardX imports it, which takes seconds; likewise the
clients of remote storage.
"""

import sys

_NOT_NEEDED = {"boto3", "comet_ml", "google.cloud", "torch"} - sys.modules.keys()

sys.modules |= dict.fromkeys(_NOT_NEEDED)  # type: ignore[arg-type]  # Not installed.
try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
finally:
    for _name in _NOT_NEEDED:
        del sys.modules[_name]

__all__ = ["Event", "EventsWriter"]
