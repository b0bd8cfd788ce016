-- From schema 2: process types have a size.

ALTER TABLE formations ADD COLUMN size TEXT;
