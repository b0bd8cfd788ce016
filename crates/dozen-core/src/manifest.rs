//! app.json and dozen.toml: what an app declares beside its Procfile.
