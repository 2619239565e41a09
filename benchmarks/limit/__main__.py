from .limit import main

main()
