-- From schema 11: what must have passed before a release.

ALTER TABLE deploys ADD COLUMN required TEXT NOT NULL DEFAULT '';

CREATE TABLE tests (
    slug        TEXT PRIMARY KEY,              -- what would be released; it need not be there any more
    passed      INTEGER NOT NULL,              -- 1: they did
    tested_at   TEXT NOT NULL,
    tested_by   TEXT NOT NULL
) STRICT;
