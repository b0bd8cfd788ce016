-- From schema 7: people and their tokens, what was done by whom, and deploys that end.

ALTER TABLE deploys ADD COLUMN expires_at TEXT;
ALTER TABLE deploys ADD COLUMN branch TEXT;

CREATE TABLE destroyed (
    uid         INTEGER PRIMARY KEY,           -- never given to another deploy: what it left may still lie somewhere
    name        TEXT NOT NULL,                 -- the deploy that there was
    generation  INTEGER NOT NULL,              -- one of the same name goes on from here
    at          TEXT NOT NULL
) STRICT;

CREATE TABLE users (
    name        TEXT PRIMARY KEY,
    admin       INTEGER NOT NULL,              -- 1: looks after the platform
    created_at  TEXT NOT NULL,
    created_by  TEXT NOT NULL,
    removed_at  TEXT                           -- null while they are a user
) STRICT;

CREATE TABLE grants (
    user  TEXT NOT NULL REFERENCES users (name),
    app   TEXT NOT NULL REFERENCES apps (name),
    role  TEXT NOT NULL CHECK (role IN ('viewer', 'deployer', 'owner')),
    PRIMARY KEY (user, app)
) STRICT;

CREATE TABLE tokens (
    id          INTEGER PRIMARY KEY,
    user        TEXT NOT NULL REFERENCES users (name),
    label       TEXT NOT NULL,                 -- what it is for
    hash        BLOB NOT NULL UNIQUE,          -- blake3 of its text, which is kept nowhere
    created_at  TEXT NOT NULL,
    created_by  TEXT NOT NULL,
    expires_at  TEXT,
    revoked_at  TEXT,
    used_at     TEXT,                          -- to a minute
    used_from   TEXT
) STRICT;

CREATE TABLE events (
    id          INTEGER PRIMARY KEY,
    at          TEXT NOT NULL,                 -- always with six digits after the second, so that its order is that of text
    who         TEXT NOT NULL,
    from_where  TEXT,                          -- 'local', or an address
    deploy      TEXT,                          -- also of one that is no more
    app         TEXT,
    what        TEXT NOT NULL,
    detail      TEXT NOT NULL,
    result      TEXT NOT NULL CHECK (result IN ('done', 'failed', 'refused'))
) STRICT;

CREATE INDEX events_of_apps ON events (app);

CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN
    SELECT RAISE(ABORT, 'events are never changed');
END;

CREATE TRIGGER events_last BEFORE DELETE ON events BEGIN
    SELECT RAISE(ABORT, 'events are never deleted');
END;

-- INSERT OR REPLACE asks no trigger of DELETE.
CREATE TRIGGER events_follow BEFORE INSERT ON events WHEN EXISTS (SELECT 1 FROM events WHERE id = NEW.id) BEGIN
    SELECT RAISE(ABORT, 'events are never replaced');
END;

-- What is known of what was done before.
INSERT INTO events (at, who, deploy, app, what, detail, result)
SELECT substr(r.created_at, 1, 19) || '.' || substr(rtrim(substr(r.created_at, 21), 'Z') || '000000', 1, 6) || 'Z',
       r.created_by, r.deploy, d.app, 'make a release', 'v' || r.version || ' ' || substr(r.description, 1, 400),
       CASE r.status WHEN 'failed' THEN 'failed' ELSE 'done' END
FROM releases r JOIN deploys d ON d.name = r.deploy ORDER BY 1, r.version;
