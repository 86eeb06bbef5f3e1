from frcnn.cli.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
