"""NDVI of the same COGs by ours and by its peers: fresh processes, interleaved, pixels compared, bytes counted."""
