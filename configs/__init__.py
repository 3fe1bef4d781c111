"""One YAML file per experiment; packaged so that an installed wheel finds them."""
