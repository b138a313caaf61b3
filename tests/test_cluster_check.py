"""Whether workers are fit: what differs on them is found, with the place where it does."""

from __future__ import annotations

import distributed.versions
import pytest

from ndvi_scale.cluster.check import check_cluster
from ndvi_scale.cluster.local import open_local
from ndvi_scale.cluster.spec import LocalSpec
from ndvi_scale.cluster.versions import require_same
from ndvi_scale.errors import ClusterError


@pytest.mark.slow
def test_other_versions_are_found_by_one_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    real = distributed.versions._version_cached
    other = {"rasterio": "0.1"}
    monkeypatch.setattr("distributed.versions._version_cached", lambda name: other.get(name) or real(name))
    with open_local(LocalSpec(workers=1)) as submit:
        require_same(submit.client)  # reads nothing
        found = check_cluster(submit.client)
        wrong = {one.what: one.value for one in found.findings if not one.ok and "version" in one.what}
        assert set(wrong) == {"version of rasterio"}
        assert "0.1 on this process" in wrong["version of rasterio"]
        told = next(one.value for one in found.findings if one.what == "versions")
        for name in ("python 3.", "numpy", "numba", "ndvi_scale", "obstore", "gdal"):
            assert name in told
        other["numba"] = "0.2"
        with pytest.raises(ClusterError, match=r"has numba .*, this process has 0\.2"):
            require_same(submit.client)
        assert "version of numba" in [one.what for one in check_cluster(submit.client).findings]
