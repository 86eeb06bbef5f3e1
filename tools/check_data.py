from frcnn.cli.check_data import main

if __name__ == "__main__":
    raise SystemExit(main())
