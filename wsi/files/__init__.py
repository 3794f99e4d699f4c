"""Files of a slide: names, addresses, fingerprints."""
