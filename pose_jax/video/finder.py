"""The people of a video's frames, as BlazePose sees them one frame after the other."""

import numpy as np

from pose_jax.video.blazepose import BlazePose, Region, same_place
from pose_jax.video.tracking import distinct


class Finder:
    """Follows people from frame to frame, and looks for new ones now and then.

    Args:
        networks: BlazePose.
        every: frames after which the detector looks at the whole image again. It does so sooner
            where somebody was lost or nobody is known.
        most: people who are followed at once.
    """

    def __init__(self, networks: BlazePose, *, every: int = 15, most: int = 8) -> None:
        self._networks = networks
        self._every, self._most = every, most
        self._regions: list[Region] = []
        self._since = every
        self._lost = False

    def update(self, image: np.ndarray) -> list[np.ndarray]:
        """People of the next frame: keypoints float64 (33, 3), pixels and confidence, each.

        Args:
            image: uint8 (height, width, 3), RGB, upright.
        """
        regions = list(self._regions)
        wait = 3 if self._lost or not regions else self._every
        if self._since >= wait:
            self._since, self._lost = 0, False
            for found in self._networks.detect(image):
                if not any(same_place(found, known) for known in regions):
                    regions.append(found)
        self._since += 1
        people = [self._networks.landmarks(image, region) for region in regions[: self._most]]
        there = [person for person in people if person is not None]
        kept = [there[i] for i in distinct([person.keypoints for person in there])]
        self._lost = self._lost or len(kept) < len(self._regions)
        self._regions = [person.region for person in kept]
        return [person.keypoints for person in kept]
