from services.edge.app import main

main()
