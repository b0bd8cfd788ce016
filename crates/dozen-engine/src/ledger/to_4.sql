-- From schema 3: deploys may be brought back after a reboot.

ALTER TABLE deploys ADD COLUMN kept_port INTEGER;
