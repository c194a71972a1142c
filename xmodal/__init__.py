"""Cross-modal transfer: the student reads another modality than its teachers. Holds the modalities, dense contrast and
segmentation from depth.
"""
