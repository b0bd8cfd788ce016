//! II. Packs at work: plans are run, layers cached, slugs made.
