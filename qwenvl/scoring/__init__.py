"""How likely and how sure: likelihoods, confidence, calibration."""
