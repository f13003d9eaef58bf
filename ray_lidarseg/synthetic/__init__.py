"""The synthetic driving world: scene, sensors (ray-caster), writers."""
