from coopmpi.cli import main

main()
