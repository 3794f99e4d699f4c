"""How the bundled model and the synthetic photographs and papers are made; see README.md. No part of the wheel."""
