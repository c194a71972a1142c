"""What is raised of a sound file whose values would not come out."""

from ...core.errors import ContrastillError


class UnreadKind(ContrastillError):
    """A file is sound, and of a kind whose values would not come out as they are. The message goes on from the file's
    name.
    """
