"""What people would use instead of this simulator, measured beside it: python -m benchmarks.peers.

Everyone gets the same problem (see `problem`): start states as in training, random actions, all forces on.
Everyone is at least as accurate as our step of 24 or 16 ms is, each against a fine solution of its own, and runs at the
setting that is fastest among those. Candidates take turns in one process. `pip install -e '.[bench]'` brings the peers.

jax_peer      our very step in JAX (lax.scan of lax.while_loop, custom_vjp): the rows agree to 1e-9 m, and the
              gradient to 1e-8 in the median rollout and 1e-4 in the worst, or the run stops
mujoco_peer   point masses, tendons and a mocap handle under mujoco.rollout, with every integrator of MuJoCo's
              documentation, chapter Computation; it has no contact law like ours and no gradients but finite
              differences, so there is no cloth and no gradient of it
warp_peer     semi-implicit steps with our forces and wp.Tape gradients, after SolverSemiImplicit of newton 1.8

What to keep in mind when reading the table:
    - No spring of these tasks is stiff for its time step: explicit steps are stable at h/2 (rope) to h/4 (double
      pendulum, cloth), and each costs no linear solve. How the comparison turns as springs get stiffer is not measured.
    - Warp computes in float32, everyone else in float64.
    - A gradient's time has its forward pass in it.
"""
