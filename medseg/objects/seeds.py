"""Seeds and the watershed that grows them: and what is left when they have none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.objects.components import face_connected

# Seeds of fewer voxels are noise: 2-D, 3-D.
LEAST = {2: 4, 3: 8}


def grow(inside: NDArray[np.bool_], price: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Objects by watershed from seeds.

    Seeds are the face-connected components of ``inside`` that have at least 4 voxels (8 in 3-D). A component of the
    mask without any is a seed as a whole, so that no object is lost for lack of one. Each voxel of the mask goes to the
    seed from which it is reached at the lowest price; of equal ones, to that whose front came first, fronts starting in
    raster order of the seeds' voxels.

    Args:
        inside: (S) where seeds are.
        price: (S) int32, low within objects, high between them.
        mask: (S) the foreground.

    Returns:
        (S) int32, numbers in no particular order.
    """
    from skimage.segmentation import watershed

    markers, count = face_connected(inside & mask)
    small = np.bincount(markers.ravel(), minlength=count + 1) < LEAST[mask.ndim]
    small[0] = True
    markers[small[markers]] = 0
    markers = with_rest(markers, mask)
    # The watershed keeps no order among seed voxels of equal price: give them the lowest prices, in raster order.
    price = price.astype(np.float64)
    marked = markers > 0
    ordered = int(marked.sum())
    price[marked] = price.min(initial=0) - ordered + np.arange(ordered)
    found: NDArray[np.int32] = watershed(price, markers, mask=mask, connectivity=1)
    return found


def with_rest(found: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Objects (S) and, as objects of their own, the face-connected components of the mask that have no voxel of one."""
    components, count = face_connected(mask)
    alone = np.ones(count + 1, dtype=bool)
    alone[components[found > 0]] = False
    alone[0] = False
    return np.where(alone[components], components + found.max(initial=0), found).astype(np.int32)
