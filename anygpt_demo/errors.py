"""Errors that a person sees: what happened, why, and what to do about it."""


class UserError(Exception):
    """A refusal that is shown as it is, in three sentences.

    problem, cause and remedy are plain English: never a traceback, a path or a token id.
    """

    def __init__(self, problem: str, cause: str, remedy: str) -> None:
        super().__init__(f"{problem} {cause} {remedy}")
        self.problem = problem
        self.cause = cause
        self.remedy = remedy
        self.file: tuple[int, str] | None = None  # number and modality of the file of a message that it is about

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """An error may come from another process."""
        return type(self), (self.problem, self.cause, self.remedy)


class BadPicture(UserError):
    """An uploaded picture cannot be used."""


class BadAudio(UserError):
    """An uploaded or recorded sound cannot be used."""


class BadText(UserError):
    """A typed message cannot be used."""


class BadCheckpoint(UserError):
    """Model files are missing, damaged or of another kind."""


class ModelFault(UserError):
    """A model failed while it was computing."""


class MissingProgram(UserError):
    """An optional program or package is not installed."""
