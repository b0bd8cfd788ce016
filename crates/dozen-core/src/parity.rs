//! X. Keep development, staging and production as similar as possible.
//! One trait stands between what is wanted and where it runs; a laptop and a server use the same driver.
