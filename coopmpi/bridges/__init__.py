"""Other frameworks' models as problems of coopmpi; each framework is imported in its own package here, and only when asked for."""
