"""Studies that ship with `ray-lidarseg sweep`: one YAML file a question, read by ``ray_lidarseg.sweep.study``."""
