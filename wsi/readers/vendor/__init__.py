"""Vendor formats and DICOM."""
