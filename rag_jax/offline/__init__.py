"""An index made by a job array: encode, fit, assign and pack."""
