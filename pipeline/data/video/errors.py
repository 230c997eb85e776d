"""Why a file yields no frames."""


class VideoError(Exception):
    """Why a file yields no frames, in words for the table of failures."""


class Unreachable(VideoError):
    """The file cannot be opened; perhaps a file system is away."""


class TooLate(VideoError):
    """The deadline is past; perhaps the machine was busy."""

    def __init__(self):
        super().__init__("took longer than decode.timeout")
