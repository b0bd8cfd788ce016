//! IX. Maximise robustness with fast startup and graceful shutdown.
