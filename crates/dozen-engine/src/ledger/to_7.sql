-- From schema 6: orders of certificates that came to nothing.

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
