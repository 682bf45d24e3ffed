"""Which recordings of the CMU Graphics Lab Motion Capture Database the open benchmark uses.

Chosen by the descriptions in the database's index, single persons only: whole-body actions of
which two different subjects exist, one of them to train on and one to test on. (The database says
that the same person may appear under more than one number; which, it does not say.)
"""

import types
from collections.abc import Iterator, Mapping

#: Split -> action -> subject -> trials.
TRIALS: Mapping[str, Mapping[str, Mapping[int, tuple[int, ...]]]] = types.MappingProxyType(
    {
        "train": {
            "walking": {
                7: (1, 2, 3, 6, 7, 8, 9, 10, 11, 12),
                16: (15, 16, 17, 18, 19, 20, 21, 22, 31, 32, 47, 58),
            },
            "running": {
                9: (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
                16: (35, 36, 45, 46, 55, 56),
            },
            "jumping": {
                13: (11, 13, 19, 32, 39, 40, 41, 42),
                16: (1, 2, 3, 4, 5, 6, 7, 9, 10),
            },
            "basketball": {6: (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)},
            "basketball_signal": {
                26: (2,),
                27: (2, 6),
                28: (1, 5),
                29: (2, 7),
                30: (1, 7),
                31: (1, 5),
                32: (3, 7),
            },
            "soccer": {10: (1, 2, 3, 5, 6)},
            "directing_traffic": {13: (26, 27, 28)},
            "washing_windows": {13: (20, 21, 22)},
        },
        "test": {
            "walking": {8: (1, 2, 3, 6, 8, 9, 10), 35: (1, 2, 3, 4, 5, 6)},
            "running": {35: (17, 18, 19, 20, 21, 22)},
            "jumping": {118: (1, 2, 3, 4, 5, 6, 7, 8)},
            "basketball": {124: (3, 4, 5, 6)},
            "basketball_signal": {40: (12,), 41: (10, 11)},
            "soccer": {11: (1,)},
            "directing_traffic": {14: (24, 25, 26)},
            "washing_windows": {14: (10, 11, 12)},
        },
    }
)

#: The database's files are SUBJECT/SUBJECT.asf and SUBJECT/SUBJECT_TRIAL.amc below this.
URL = "http://mocap.cs.cmu.edu/subjects"


def files() -> Iterator[str]:
    """Every file that the benchmark needs, below `URL`: each skeleton before its motions."""
    skeleton = None
    for subject, trial in sorted(_BY_NUMBER):
        if subject != skeleton:
            yield f"{subject:02}/{subject:02}.asf"
            skeleton = subject
        yield f"{subject:02}/{subject:02}_{trial:02}.amc"


def split_and_action(subject: int, trial: int) -> tuple[str, str] | None:
    """Split and action of a recording; None of one that the benchmark does not use."""
    return _BY_NUMBER.get((subject, trial))


_BY_NUMBER = {
    (subject, trial): (split, action)
    for split, actions in TRIALS.items()
    for action, subjects in actions.items()
    for subject, trials in subjects.items()
    for trial in trials
}
