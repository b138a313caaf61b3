"""Where a scene classification errs: what it misses of the sky, and the clouds it sees where there are none.

Like all of `scene`, a function of place and datatake alone, so that any two windows agree where they meet. The
mistakes are those that users of Sen2Cor know: thin rims of clouds, thin cirrus and small shadows pass as ground,
and a bright roof or a bare field passes as a cloud.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ndvi_scale.sandbox.scene import CIRRUS, MEDIUM, SHADOW, SOIL, ground_classes, hashed, quads, smooth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ndvi_scale.sandbox.scene import Bools, Land, Sky, View, Window

RIM = 0.4  # opacity below which the rim of a cloud is missed: measured 2 to 3 cells of 20 m, by cover
THIN = 0.2  # opacity below which cirrus may be missed: half of it
PATCHY = 0.25  # height of the noise above which cirrus or shadow is missed: about a quarter of the ground
BRIGHT = 1500  # clear red in steps of 1e-4, mean of a cell: what bare soil or a roof needs to pass as a cloud


def mistaken_scl(land: Land, sky: Sky, view: View) -> NDArray[np.uint8]:
    """Scene classes on 20 m cells, like those of a view but wrong in places."""
    ground = land.window.halved()
    scl = np.where(_missed(ground, sky), ground_classes(land, view.clear_red, view.clear_nir), view.scl)
    scl[(scl == SOIL) & (quads(view.clear_red) > 4 * BRIGHT) & _lone_cells(ground, sky.salt + 302)] = MEDIUM
    return scl


def _missed(ground: Window, sky: Sky) -> Bools:
    """Cells of rims, cirrus and shadow that pass as ground."""
    there, opacity = sky.seen(ground)
    rim = (there == MEDIUM) & (opacity < RIM)
    veil = (there == CIRRUS) & (opacity < THIN) & _patches(ground, max(4, sky.size // 3), sky.salt + 300)
    shade = (there == SHADOW) & _patches(ground, max(3, sky.size // 8), sky.salt + 301)
    return rim | veil | shade


def _patches(ground: Window, size: int, salt: int) -> Bools:
    return smooth(ground, size, salt) > PATCHY


def _lone_cells(ground: Window, salt: int) -> Bools:
    """One pair of cells side by side in 128, and of every second such pair the western cell alone."""
    bits = hashed(ground.rows(), ground.cols() // 2, salt)
    eastern = (ground.cols() % 2 == 1)[None, :]
    return (bits >> 25 == 0) & ~(eastern & (bits & 1 == 1))
