import jax

# Eight devices on any machine, so that every test may use several.
jax.config.update('jax_num_cpu_devices', 8)
