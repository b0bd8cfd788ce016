-- The ledger: the only truth about intent. Read it with `sqlite3 ledger.db`; the words are the methodology's own.
-- Names of deploys are 'app/deploy'. Times are RFC 3339, UTC. Config values are sealed; names and everything else are in the open.

CREATE TABLE apps (
    name        TEXT PRIMARY KEY,
    folder      TEXT,                          -- where it was last brought up from
    created_at  TEXT NOT NULL
) STRICT;

CREATE TABLE deploys (
    name             TEXT PRIMARY KEY,         -- 'shop/dev'
    app              TEXT NOT NULL REFERENCES apps (name),
    uid              INTEGER NOT NULL UNIQUE,  -- what its processes run as, where dozen may choose
    generation       INTEGER NOT NULL,         -- counts the changes of intent
    current_release  INTEGER,                  -- the version that serves, or would
    created_at       TEXT NOT NULL,
    kept_port        INTEGER,                  -- where it serves in the background, also after a reboot; null where nobody asked for that
    maintenance      INTEGER NOT NULL DEFAULT 0, -- 1: visitors are told so, and nothing reaches the app
    paused           INTEGER NOT NULL DEFAULT 0, -- 1: requests wait
    https_only       INTEGER NOT NULL DEFAULT 0, -- 1: plain HTTP is sent on to HTTPS
    hsts             INTEGER,                  -- seconds; null where browsers are told nothing
    kept_https_port  INTEGER,                  -- kept_port's fellow for HTTPS; null where there is none
    acme             TEXT,                     -- JSON: whom its domains' certificates are asked of; null where nobody is
    paused_until     TEXT,                     -- when a pause ends by itself
    trusted          TEXT NOT NULL DEFAULT '', -- the proxies before the router: '10.0.0.0/8 192.0.2.1/32'
    sticky           TEXT NOT NULL DEFAULT 'no', -- by what clients are known in a split: 'cookie', 'header:x-user'
    expires_at       TEXT,                     -- when it is to be destroyed; null where it is to stay
    branch           TEXT,                     -- the branch that it was made for
    split_at         TEXT,                     -- since when requests are split between releases; null where they are not
    split_abort      INTEGER,                  -- where more of the newest one's fail than this, in hundredths of a percent, it is aborted
    required         TEXT NOT NULL DEFAULT ''  -- what must pass before a release: 'tests'
) STRICT;

CREATE TABLE slugs (
    id          TEXT PRIMARY KEY,              -- blake3, hexadecimal
    pack        TEXT NOT NULL,
    runtime     TEXT,
    processes   TEXT NOT NULL,                 -- JSON: {"web": "gunicorn …"}
    size        INTEGER NOT NULL,              -- bytes
    files       INTEGER NOT NULL,
    created_at  TEXT NOT NULL
) STRICT;

CREATE TABLE configs (
    deploy      TEXT NOT NULL REFERENCES deploys (name),
    version     INTEGER NOT NULL,
    names       TEXT NOT NULL,                 -- JSON array
    sealed      BLOB NOT NULL,                 -- XChaCha20-Poly1305: 24 bytes of nonce, then the ciphertext
    created_at  TEXT NOT NULL,
    created_by  TEXT NOT NULL,
    PRIMARY KEY (deploy, version)
) STRICT;

CREATE TABLE resources (
    id          INTEGER PRIMARY KEY,
    deploy      TEXT NOT NULL REFERENCES deploys (name),
    kind        TEXT NOT NULL,                 -- 'sqlite'
    folder      TEXT NOT NULL,
    created_at  TEXT NOT NULL
) STRICT;

CREATE TABLE attachments (
    deploy      TEXT NOT NULL REFERENCES deploys (name),
    name        TEXT NOT NULL,                 -- 'DATABASE' gives DATABASE_URL
    resource    INTEGER NOT NULL REFERENCES resources (id),
    PRIMARY KEY (deploy, name)
) STRICT;

CREATE TABLE releases (
    deploy          TEXT NOT NULL REFERENCES deploys (name),
    version         INTEGER NOT NULL,          -- 1 is v1
    slug            TEXT NOT NULL REFERENCES slugs (id),
    config_version  INTEGER NOT NULL,
    attachments     TEXT NOT NULL,             -- JSON: {"DATABASE": <resource id>}
    commit_hash     TEXT,                      -- what was checked out; with '+' where the work tree differed
    python          TEXT,                      -- --use-python, where it was given
    description     TEXT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed')),
    failure         TEXT,                      -- why, where it failed
    up_at           TEXT,                      -- when all of it was up for the first time
    created_at      TEXT NOT NULL,
    created_by      TEXT NOT NULL,
    node            TEXT,                      -- --use-node, where it was given
    PRIMARY KEY (deploy, version),
    FOREIGN KEY (deploy, config_version) REFERENCES configs (deploy, version)
) STRICT;

CREATE TABLE formations (
    deploy        TEXT NOT NULL REFERENCES deploys (name),
    process_type  TEXT NOT NULL,
    quantity      INTEGER NOT NULL CHECK (quantity >= 0),
    size          TEXT,                        -- '512M'; NULL leaves it to what the app declares
    PRIMARY KEY (deploy, process_type)
) STRICT;

CREATE TABLE stopped (
    deploy        TEXT NOT NULL REFERENCES deploys (name),
    process_type  TEXT NOT NULL,               -- none of it runs, however many the formation says
    PRIMARY KEY (deploy, process_type)
) STRICT;

CREATE TABLE one_offs (
    deploy      TEXT NOT NULL REFERENCES deploys (name),
    number      INTEGER NOT NULL,              -- 7 is run.7
    release     INTEGER NOT NULL,
    command     TEXT NOT NULL,                 -- masked
    started_at  TEXT NOT NULL,
    started_by  TEXT NOT NULL,
    ended_at    TEXT,
    exit_code   INTEGER,
    PRIMARY KEY (deploy, number)
) STRICT;

CREATE TABLE builds (
    deploy       TEXT NOT NULL REFERENCES deploys (name),
    number       INTEGER NOT NULL,             -- 7 is build.7
    source       TEXT NOT NULL,                -- how it came: 'push', 'folder', 'deploy'
    commit_hash  TEXT,                         -- what it is of; with '+' where the source differed
    state        TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled')),
    created_at   TEXT NOT NULL,
    created_by   TEXT NOT NULL,
    started_at   TEXT,                         -- when its turn came
    ended_at     TEXT,
    ended_by     TEXT,                         -- who cancelled it
    slug         TEXT,                         -- what it gave; the slug may be gone, and need not have been released
    failure      TEXT,                         -- why it gave nothing
    PRIMARY KEY (deploy, number)
) STRICT;

CREATE TABLE tests (
    slug        TEXT PRIMARY KEY,              -- what would be released; it need not be there any more
    passed      INTEGER NOT NULL,              -- 1: they did
    tested_at   TEXT NOT NULL,
    tested_by   TEXT NOT NULL
) STRICT;

CREATE TABLE shares (
    deploy   TEXT NOT NULL REFERENCES deploys (name),
    release  INTEGER NOT NULL,
    weight   INTEGER NOT NULL,                 -- its part of the requests, relative to the others
    PRIMARY KEY (deploy, release)
) STRICT;

CREATE TABLE domains (
    domain      TEXT PRIMARY KEY,              -- 'shop.example.com', '*.example.com', 'example.com/api'
    deploy      TEXT NOT NULL REFERENCES deploys (name),
    created_at  TEXT NOT NULL,
    created_by  TEXT NOT NULL
) STRICT;

CREATE TABLE certificates (
    id          INTEGER PRIMARY KEY,
    deploy      TEXT NOT NULL REFERENCES deploys (name),
    names       TEXT NOT NULL,                 -- JSON array: the host names that it is for
    source      TEXT NOT NULL CHECK (source IN ('file', 'acme')),
    chain       TEXT NOT NULL,                 -- PEM, the server's own first
    sealed_key  BLOB NOT NULL,                 -- like configs.sealed
    not_after   TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    created_by  TEXT NOT NULL
) STRICT;

CREATE TABLE acme_accounts (
    directory   TEXT PRIMARY KEY,              -- its URL
    sealed      BLOB NOT NULL,                 -- the account's credentials
    created_at  TEXT NOT NULL
) STRICT;

CREATE TABLE acme_failures (
    deploy     TEXT NOT NULL REFERENCES deploys (name),
    directory  TEXT NOT NULL,                  -- whom it was asked of
    host       TEXT NOT NULL,
    why        TEXT NOT NULL,
    times      INTEGER NOT NULL,               -- how many in a row
    too_often  INTEGER NOT NULL,               -- 1: the authority says that it was asked too often
    again_at   TEXT NOT NULL,                  -- when the next is made
    PRIMARY KEY (deploy, directory, host)
) STRICT;

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

CREATE TABLE ssh_keys (
    fingerprint  TEXT PRIMARY KEY,             -- 'SHA256:…', as ssh shows it
    user         TEXT NOT NULL REFERENCES users (name),
    key          TEXT NOT NULL,                -- 'ssh-ed25519 AAAA…'
    label        TEXT NOT NULL,                -- what its owner calls it
    created_at   TEXT NOT NULL,
    created_by   TEXT NOT NULL,
    expires_at   TEXT,                         -- with the token that it was added by
    used_at      TEXT,                         -- to a minute
    used_from    TEXT
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
