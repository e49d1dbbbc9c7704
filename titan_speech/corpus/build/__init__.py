"""`titan-speech store build`: units of an input become a store, in parallel and restartable.

command --> settings, folder   what is asked for; the build folder that says it and holds what is finished
               |
               v
            run --> pool, work   units and parts as tasks of worker processes; progress
               |
               v
            push   to object storage, manifest last
"""
