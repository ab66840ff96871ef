def main(args=None):
    raise SystemExit
