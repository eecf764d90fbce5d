module github.com/grimoire-build/grimoire/example-app

go 1.26.0
