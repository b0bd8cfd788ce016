-- From schema 1: other languages than Python can be chosen, and process types can be stopped without forgetting how many there are.

ALTER TABLE releases ADD COLUMN node TEXT;

CREATE TABLE stopped (
    deploy        TEXT NOT NULL REFERENCES deploys (name),
    process_type  TEXT NOT NULL,
    PRIMARY KEY (deploy, process_type)
) STRICT;
