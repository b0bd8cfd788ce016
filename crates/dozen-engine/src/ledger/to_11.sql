-- From schema 10: since when requests are split, and when that is aborted by itself.

ALTER TABLE deploys ADD COLUMN split_at TEXT;
ALTER TABLE deploys ADD COLUMN split_abort INTEGER;
UPDATE deploys SET split_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE name IN (SELECT deploy FROM shares);
