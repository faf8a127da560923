"""Who can see a face: detectors, embedders, alignment and measured attributes."""
